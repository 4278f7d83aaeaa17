"""What makes a run continue: the file, what is stored when, and whether func, reducer and input are what they were."""
