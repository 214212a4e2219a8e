"""The teacher cache: format, writer, reader, and the run of a teacher that writes it."""
