"""Teachers and where their answers come from: a network (`online`), a cache (`cached`), or several networks."""
