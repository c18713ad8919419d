"""The report: is the dataset worth training on, and why?"""
