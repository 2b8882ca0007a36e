package main

import "testing"

func TestOnlyAnEndWithoutAnInputIsNoFinding(t *testing.T) {
	for said, want := range map[string]bool{
		"--- FAIL: FuzzX (10.03s)\n    context deadline exceeded\nFAIL\n":                                                                                            true,
		"--- FAIL: FuzzX (0.03s)\n        x_test.go:9: no\n    Failing input written to testdata/fuzz/FuzzX/1\nFAIL\n":                                               false,
		"--- FAIL: FuzzX (9s)\n    fuzzing process hung or terminated unexpectedly: context deadline exceeded\n    Failing input written to testdata/fuzz/FuzzX/2\n": false,
		"x.go:1:1: syntax error\n": false,
	} {
		if got := outOfTime([]byte(said)); got != want {
			t.Errorf("%q: %t", said, got)
		}
	}
}
