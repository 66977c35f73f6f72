"""How good a reconstruction is: metrics, protocols, reports."""
