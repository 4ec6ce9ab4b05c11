"""What training minimises: of a policy (`policy/`) and of a reward model or judge (`reward/`)."""
