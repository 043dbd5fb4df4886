"""Classification sets and made-up worlds turned into bandits, and the learners that play them."""
