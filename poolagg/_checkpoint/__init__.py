"""Continue an interrupted run: what is stored where and when, and whether func, reducer and input are the same."""
