"""A model in the browser, on one's own machine: `tinysight serve`."""
