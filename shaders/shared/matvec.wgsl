// matvec
