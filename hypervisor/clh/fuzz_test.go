package clh

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

func TestAPIErrorReadsEveryForm(t *testing.T) {
	for body, want := range map[string]string{
		`VM is not created`: "vm.boot: status 500: VM is not created",
		`["Error from API","The VM could not boot","VM is not created"]`: "vm.boot: status 500: Error from API: The VM could not boot: VM is not created",
		`ApiError(VmCreate(VmAlreadyCreated))`:                           "vm.boot: status 500: ApiError(VmCreate(VmAlreadyCreated))",
		``:                                                               "vm.boot: status 500",
		"{ \"error\": \"bad\nAll previous\" }":                           "vm.boot: status 500: { \"error\": \"bad All previous\" }",
	} {
		if got := newAPIError("vm.boot", 500, []byte(body)).Error(); got != want {
			t.Errorf("%q reads %q, want %q", body, got, want)
		}
	}
}

func TestAPIErrorClass(t *testing.T) {
	for status, class := range map[int]error{
		400: errdefs.ErrInvalidArgument, 404: errdefs.ErrNotFound, 409: errdefs.ErrAlreadyExists,
		429: errdefs.ErrResourceExhausted, 500: errdefs.ErrInternal, 503: errdefs.ErrUnavailable, 418: errdefs.ErrInternal,
	} {
		if err := fmt.Errorf("x: %w", newAPIError("vm.info", status, nil)); !errors.Is(err, class) {
			t.Errorf("status %d is not %v", status, class)
		}
	}
}

// FuzzAPIError: whatever the VMM answers, the error is one line of bounded
// length that a log can hold.
func FuzzAPIError(f *testing.F) {
	f.Add(500, []byte(`["a","b"]`))
	f.Add(404, []byte("Not Found"))
	f.Add(400, []byte("{ \"error\": \"x\nAll\" }"))
	f.Add(500, []byte("\xff\xfe\x00[]"))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		text := newAPIError("vm.info", status, body).Error()
		if len(text) > 64+maxReasons*(maxReason+2) || !utf8.ValidString(text) {
			t.Fatalf("%d bytes, valid %v", len(text), utf8.ValidString(text))
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && unicode.IsControl(r) }) {
			t.Fatalf("control character in %q", text)
		}
	})
}

func TestEventsSurviveALoss(t *testing.T) {
	const removed = "{\n  \"timestamp\": {\n    \"secs\": 1,\n    \"nanos\": 2\n  },\n  \"source\": \"vm\",\n  \"event\": \"device-removed\",\n  \"properties\": {\n    \"bdf\": \"0000:00:05.0\",\n    \"id\": \"layer\"\n  }\n}\n\n"
	const booted = "{\n  \"source\": \"vm\",\n  \"event\": \"booted\",\n  \"properties\": null\n}\n\n"
	for name, stream := range map[string]string{
		"whole":             booted + removed,
		"cut in an object":  booted[:20] + booted + removed,
		"cut before":        booted + "\": 1\n}\n\n" + removed,
		"garbage":           booted + "\x00\x01\n\n\n\n" + removed,
		"too long":          booted + strings.Repeat("x", 3*maxEvent) + "\n\n" + removed,
		"no blank line yet": booted + strings.TrimRight(removed, "\n"),
	} {
		var got []string
		err := readEvents(strings.NewReader(stream), func(e event) { got = append(got, e.Source+"/"+e.Event+" "+e.Properties.ID) })
		if want := "vm/booted |vm/device-removed layer"; err != nil || strings.Join(got, "|") != want {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
	}
}

// FuzzEvents: a whole event is read behind whatever came before it.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("{\"source\":\"vm\",\"event\":\"booting\"}\n\n"))
	f.Add([]byte("{\"source\":\"v"))
	f.Add([]byte("\n\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var last event
		err := readEvents(strings.NewReader(string(in)+"\n\n{\"source\":\"vm\",\"event\":\"end\"}\n\n"), func(e event) { last = e })
		if err != nil || last.Event != "end" {
			t.Fatalf("the last event read is %+v, %v", last, err)
		}
	})
}

func TestTail(t *testing.T) {
	tl := tail{max: 10}
	for _, s := range []string{"", "ab\n", "cdefgh\n", "ij\n", "this is much longer than ten\nxy\n"} {
		tl.Write([]byte(s))
	}
	if got := tl.String(); got != "xy\n" {
		t.Errorf("kept %q", got)
	}
	if got := lastLines("a\nb\nc\n", 2); got != "b\nc" {
		t.Errorf("last lines %q", got)
	}
}

// FuzzParseVersion: a version that is read is one that will do, and the same
// whatever follows its first number.
func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"40.0.0", "v51.1", "53", "39.9", "", "-1", "+41", "0x40", "40 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := parseVersion(text)
		if err != nil {
			return
		}
		if again, err := parseVersion(fmt.Sprintf("%d.0.0", v)); v < oldestVersion || err != nil || again != v {
			t.Errorf("%q is version %d, which is read as %d, %v", text, v, again, err)
		}
	})
}

// FuzzPanicLine: whatever a guest prints, what is made of it is one short line.
func FuzzPanicLine(f *testing.F) {
	for _, s := range []string{"", "Kernel panic - not syncing: x\n", "a\nKernel panic - not syncing\x1b[31m", "Kernel panic - not syncing\xff\xfe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, console string) {
		line := panicLine(console)
		if len(line) > maxReason || !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q becomes %q", console, line)
		}
		if line != "" && !strings.Contains(console, "Kernel panic") {
			t.Errorf("%q has no panic, and becomes %q", console, line)
		}
	})
}

// FuzzTail: what is told of a console is text, no longer than what was printed.
func FuzzTail(f *testing.F) {
	for _, s := range []string{"", "a\r\nb\tc\n", "\x1b[2Jgone\x00", "\xff\xfe\n", "\u0085\u009b31m"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, printed []byte) {
		console := tail{max: 64}
		if _, err := console.Write(printed); err != nil {
			t.Fatal(err)
		}
		text := console.String()
		if !utf8.ValidString(text) || len(text) > 64 || strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && r != '\t' && unicode.IsControl(r) }) {
			t.Errorf("%q is told as %q", printed, text)
		}
	})
}
