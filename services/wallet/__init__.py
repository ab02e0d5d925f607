"""The wallet: users, their payment passwords, and payments on their behalf."""
