package debian

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseControl(t *testing.T) {
	const text = `# a comment
Package: crun
Depends: libc6 (>= 2.34),
 libcap2
Description: lightweight runtime
 .
# a comment inside
 second
` + "\t\n" + `
Package: b
Empty:
`
	got, err := ParseControl(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Paragraph{
		{{"Package", "crun"}, {"Depends", "libc6 (>= 2.34),\n libcap2"}, {"Description", "lightweight runtime\n .\n second"}},
		{{"Package", "b"}, {"Empty", ""}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if v := got[0].Get("package"); v != "crun" {
		t.Errorf("Get ignores no case: %q", v)
	}
}

func TestParseControlRefuses(t *testing.T) {
	for text, want := range map[string]string{
		" orphan\n":             "line 1: continuation of no field",
		"A: b\nno field here\n": `line 2: "no field here" is no field`,
		"A: b\n: nameless\n":    "line 2",
	} {
		if _, err := ParseControl(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseControl(%q) = %v, want an error with %q", text, err, want)
		}
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add("Package: a\nDepends: b,\n c\n\nPackage: d\n")
	f.Add("# c\nA:\n .\n")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := ParseControl(strings.NewReader(text))
		if err != nil {
			return
		}
		var b strings.Builder
		for _, p := range first {
			b.WriteString(p.String() + "\n")
		}
		second, err := ParseControl(strings.NewReader(b.String()))
		if err != nil || !reflect.DeepEqual(first, second) {
			t.Errorf("what was written reads differently: %v\n%q\n%q", err, first, second)
		}
	})
}
