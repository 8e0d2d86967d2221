"""How a dataset is compiled: judgements by prompt, what each is worth, what must not enter, and the files."""
