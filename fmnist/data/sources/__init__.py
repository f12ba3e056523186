"""Where labelled images come from, a file each."""
