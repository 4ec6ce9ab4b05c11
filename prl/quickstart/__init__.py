"""The quickstart world: generated data with a known truth, its tokenizer, and its evaluation."""
