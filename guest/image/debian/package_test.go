package debian

import (
	"slices"
	"strings"
	"testing"
)

func TestDependencies(t *testing.T) {
	for field, want := range map[string][]string{
		"":                                    nil,
		",":                                   nil,
		"libc6 (>= 2.34), libcap2 (>= 1:2.1)": {"libc6", "libcap2"},
		"libsystemd0 | libelogind0, libc6":    {"libsystemd0", "libc6"},
		"a:any, b(>= 1), c [amd64], a":        {"a", "b", "c"},
		"one,\n two,\n":                       {"one", "two"},
	} {
		if got := dependencies(field); !slices.Equal(got, want) {
			t.Errorf("dependencies(%q) = %q, want %q", field, got, want)
		}
	}
}

func TestParsePackagesRefuses(t *testing.T) {
	sum := strings.Repeat("0", 64)
	for name, text := range map[string]string{
		"no size":       "Package: a\nVersion: 1\nFilename: pool/a.deb\nSHA256: " + sum + "\n",
		"no checksum":   "Package: a\nVersion: 1\nFilename: pool/a.deb\nSize: 1\n",
		"no file name":  "Package: a\nVersion: 1\nSize: 1\nSHA256: " + sum + "\n",
		"leads outside": "Package: a\nVersion: 1\nFilename: pool/..\nSize: 1\nSHA256: " + sum + "\n",
	} {
		if p, err := parsePackages(strings.NewReader(text)); err == nil {
			t.Errorf("%s: read as %+v", name, p)
		}
	}
}
