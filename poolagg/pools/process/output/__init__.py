"""Log records, warnings and output of workers reach the program that called; a crash says where the worker was."""
