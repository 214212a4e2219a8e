"""stub while developing"""
DEFAULT_PAIRS=1; SOURCE="qaa"; TARGET="qab"
