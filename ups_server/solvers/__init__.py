"""What advances a state: trained models, persistence and numerical methods, behind one interface."""
