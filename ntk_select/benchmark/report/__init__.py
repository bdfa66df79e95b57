"""Tables, figures and a page of what a benchmark measured."""
