#!/bin/sh
# Stands in a binary's place: does what the test says.
eval "$SCRIPT"
