"""What is wrong with a data set, all of it counted: `cdetr data check`."""
