"""Everything that needs Lightning's Trainer."""
