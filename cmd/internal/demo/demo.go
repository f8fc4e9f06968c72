package demo

// Run plays all scenes.
func Run() error { return nil }
