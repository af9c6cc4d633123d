"""The figures and tables of the papers that fit on a CPU, redone. `figure` says what one of them is."""
