#!/usr/bin/env python3
"""exposition.py: what the Prometheus gate makes its past of."""

import unittest

from exposition import Course, Exposition, line

FIRST = """# TYPE answers_total counter
answers_total{to="a"} 10
# TYPE waiting gauge
waiting 3
# TYPE seconds histogram
seconds_bucket{le="+Inf"} 4
seconds_sum 2
seconds_count 4
"""
SECOND = """# TYPE answers_total counter
answers_total{to="a"} 16
answers_total{to="b\\"}"} 2
# TYPE waiting gauge
waiting 1
# TYPE seconds histogram
seconds_bucket{le="+Inf"} 4
seconds_sum 2
seconds_count 4
"""
TO_A = ("answers_total", (("to", "a"),))
TO_B = ("answers_total", (("to", 'b\\"}'),))


class ExpositionTest(unittest.TestCase):
    def test_reads_what_it_writes(self):
        exposition = Exposition(SECOND)
        self.assertEqual(exposition.families(),
                         {"answers_total", "waiting", "seconds"})
        for key, value in exposition.samples.items():
            again = Exposition(line(key, value))
            self.assertEqual(again.samples, {key: value})
        self.assertEqual(exposition.family_of("seconds_bucket"), "seconds")

    def test_counters_go_on_and_gauges_stay(self):
        course = Course(Exposition(FIRST), Exposition(SECOND))
        self.assertEqual(course.value(TO_A, 2), 12)
        self.assertEqual(course.value(TO_B, 2), 4)
        self.assertEqual(course.value(("waiting", ()), 2), 1)
        self.assertEqual(course.value(("seconds_count", ()), 2), 0)
        self.assertEqual(set(course.moving()), {TO_A, TO_B, ("waiting", ())})

    def test_labels_are_added_and_replaced(self):
        self.assertEqual(line(TO_A, 1.5, job="j", to="c"),
                         'answers_total{to="c",job="j"} 1.5')


if __name__ == "__main__":
    unittest.main()
