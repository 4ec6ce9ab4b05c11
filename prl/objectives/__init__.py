"""What training minimises: of a policy (`policy/`, `preference/`) and of a judge or reward model (`reward/`)."""
