"""What the stored fits say together: the clocks joined on time, rates, balance, phase."""
