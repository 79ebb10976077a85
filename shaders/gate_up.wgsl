// gate_up
