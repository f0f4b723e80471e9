"""What a run costs: money, energy at the meter, emissions. Pure functions of a result and its cluster's terms and site."""
