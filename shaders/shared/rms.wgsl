// rms
