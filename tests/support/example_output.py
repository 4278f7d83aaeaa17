"""The output of examples, wherever they run."""

PRIMES = "17,984 primes, their sum 1,709,600,813, the largest 199,999"
