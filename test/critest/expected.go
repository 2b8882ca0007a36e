package main

import (
	_ "embed"
	"fmt"
	"regexp"

	"github.com/BurntSushi/toml"
)

//go:embed expected.toml
var expectedText string

// expectation is a spec that does not just pass, and why.
type expectation struct {
	Spec   string `toml:"spec"`
	Reason string `toml:"reason"`
}

// expectations are what expected.toml says.
type expectations struct {
	Skip    []expectation `toml:"skip"`
	Failing []expectation `toml:"failing"`
}

func parseExpectations(text string) (expectations, error) {
	var e expectations
	meta, err := toml.Decode(text, &e)
	if err != nil {
		return e, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return e, fmt.Errorf("expected.toml: unknown key %s", unknown[0])
	}
	seen := map[string]bool{}
	for _, list := range [][]expectation{e.Skip, e.Failing} {
		for _, x := range list {
			if x.Spec == "" || x.Reason == "" {
				return e, fmt.Errorf("expected.toml: an entry without spec or reason: %+v", x)
			}
			if seen[x.Spec] {
				return e, fmt.Errorf("expected.toml: %q is there twice", x.Spec)
			}
			seen[x.Spec] = true
		}
	}
	return e, nil
}

// skipFlags tell Ginkgo what not to run. It matches a spec's text behind that of
// the suite.
func (e expectations) skipFlags() []string {
	var flags []string
	for _, x := range e.Skip {
		flags = append(flags, "-ginkgo.skip="+regexp.QuoteMeta(x.Spec)+"$")
	}
	return flags
}

func find(list []expectation, spec string) (reason string, ok bool) {
	for _, x := range list {
		if x.Spec == spec {
			return x.Reason, true
		}
	}
	return "", false
}
