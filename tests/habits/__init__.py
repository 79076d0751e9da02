"""Habits of code that uses transformers' classes of these models, one function each.

A function's name says the habit, its arguments are what `World` has of that name; it fails where the habit does. `t` is the
module that the classes are imported from. transformers passes each of them, or it would be no habit.
"""
