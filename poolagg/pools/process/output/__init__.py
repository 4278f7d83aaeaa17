"""What workers log, warn and print reaches the program that called; what crashes says where it was."""
