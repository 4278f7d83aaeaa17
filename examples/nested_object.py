"""An object inside an object: `car.engine.pistons[2].record(...)`, from many processes.

A Manager's proxy reaches one level deep: what it returns of the next level is a copy, and changes to it are lost.
Here there is no proxy: the objects are ordinary ones, changed in this process by what the workers found out.
"""

from poolagg import Into, aggregate, star


class Piston:
    def __init__(self):
        self.strokes, self.hottest = 0, 0.0

    def record(self, temperature):
        self.strokes += 1
        self.hottest = max(self.hottest, temperature)


class Engine:
    def __init__(self, cylinders):
        self.pistons = [Piston() for _ in range(cylinders)]


class Car:
    def __init__(self):
        self.engine = Engine(cylinders=4)

    def feel(self, cylinder, temperature):
        self.engine.pistons[cylinder].record(temperature)


def simulate(stroke):
    """The work, in a worker process: which piston fires at this stroke, and how hot it gets."""
    temperature = 700.0
    for step in range(200):
        temperature += 0.5 - (stroke * 7919 + step) % 11 / 10.0 + 0.02 * (stroke % 4)
    return stroke % 4, temperature


car = Car()
engine, pistons = car.engine, car.engine.pistons
aggregate(simulate, range(8_000), Into(star(car.feel)))

for number, piston in enumerate(car.engine.pistons):
    print(f"piston {number}: {piston.strokes} strokes, hottest {piston.hottest:.1f} °C")
print(f"still the same objects: {car.engine is engine and engine.pistons is pistons}")
