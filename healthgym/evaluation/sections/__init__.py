"""The sections of a report, a module each: what is measured and in which words it is shown."""
