"""The program: command line, web page, batches of files."""
