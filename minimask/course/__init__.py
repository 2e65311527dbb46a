"""The course: notebooks, slides, book and exercises, all from the sources in notebooks/."""
