// nll
