//go:build race

package tardev

func init() { raceDetector = true }
