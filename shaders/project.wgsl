// project
