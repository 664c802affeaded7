"""Parts of scripts that run many trainings and compare them."""
