"""Finds the packages, so that a new folder below one of the layers is packaged without an edit."""

from setuptools import find_namespace_packages, setup

LAYERS = ("kernels", "models", "decoders", "experiments")

setup(packages=["quicksilver.conf", *(f"quicksilver.{layer}" for layer in LAYERS),
                *(f"quicksilver.{layer}.{package}" for layer in LAYERS
                  for package in find_namespace_packages(layer, exclude=["*__pycache__*"]))])
