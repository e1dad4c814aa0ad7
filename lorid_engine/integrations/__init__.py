"""The ops inside other people's stacks; each module needs the package that it is named after."""
