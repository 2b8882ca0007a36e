package bootstrap

import (
	"os"
	"testing"

	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// options are the runtime's options as containerd writes them, with a path.
func options(t testing.TB, path string) []byte {
	t.Helper()
	value, err := proto.Marshal(&runtimeoptions.Options{ConfigPath: path})
	if err != nil {
		t.Fatal(err)
	}
	text, err := proto.Marshal(&anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: value})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// parameters are those of containerd 2.3 and later around the options.
func parameters(options []byte) []byte {
	var p []byte
	p = protowire.AppendTag(p, 1, protowire.BytesType)
	p = protowire.AppendString(p, "id")
	p = protowire.AppendTag(p, 2, protowire.BytesType)
	p = protowire.AppendString(p, "k8s.io")
	p = protowire.AppendTag(p, 3, protowire.VarintType)
	p = protowire.AppendVarint(p, 4)
	extension := protowire.AppendBytes(protowire.AppendTag(nil, fieldValue, protowire.BytesType), options)
	p = protowire.AppendTag(p, fieldExtensions, protowire.BytesType)
	return protowire.AppendBytes(p, extension)
}

func TestConfigurationInTheParametersOfEveryContainerd(t *testing.T) {
	for name, in := range map[string][]byte{"1.7": options(t, "/etc/c.toml"), "2.4": parameters(options(t, "/etc/c.toml"))} {
		if path, err := configOf(in); err != nil || path != "/etc/c.toml" {
			t.Errorf("%s: %q, %v", name, path, err)
		}
	}
	for name, in := range map[string][]byte{"nothing": nil, "no path": parameters(options(t, "")), "no options": parameters(nil)} {
		if path, err := configOf(in); err != nil || path != "" {
			t.Errorf("%s: %q, %v", name, path, err)
		}
	}
}

func TestAnswerInTheFormOfTheQuestion(t *testing.T) {
	const address = "unix:///run/s"
	const asJSON = `{"version":2,"address":"unix:///run/s","protocol":"ttrpc"}`
	const asProtobuf = "\x08\x02\x12\x0d" + address + "\x1a\x05ttrpc"
	params := parameters(options(t, "/etc/c.toml"))
	for name, tc := range map[string]struct {
		in         []byte
		maxVersion string
		want       string
	}{
		"by hand":           {nil, "", address},
		"1.7 to 2.2":        {options(t, "/etc/c.toml"), "2", address},
		"newer":             {options(t, "/etc/c.toml"), "3", asJSON},
		"newer, no options": {nil, "3", asJSON},
		"2.4":               {params, "2", asProtobuf},
		"another id's":      {parameters(nil), "2", address},
		"garbage":           {[]byte{0x0a, 0xff}, "2", address},
		"version is a word": {nil, "three", address},
	} {
		id := "id"
		if name == "another id's" {
			id = "other"
		}
		t.Setenv(envMaxVersion, tc.maxVersion)
		if got, err := answer(tc.in, id, address, maxVersion()); err != nil || got != tc.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tc.want)
		}
	}
}

func TestStartDoesNotWaitForAnOpenInput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.Write(options(t, "/etc/c.toml")); err != nil {
		t.Fatal(err)
	}
	if got, err := readParams(r); err != nil || got != nil {
		t.Errorf("open: %q, %v", got, err)
	}
	w.Close()

	r2, w2, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r2.Close()
	if _, err := w2.Write(options(t, "/etc/c.toml")); err != nil {
		t.Fatal(err)
	}
	w2.Close()
	if got, err := readParams(r2); err != nil || string(got) != string(options(t, "/etc/c.toml")) {
		t.Errorf("closed: %q, %v", got, err)
	}
}

func FuzzConfigOf(f *testing.F) {
	f.Add(options(f, "/etc/c.toml"))
	f.Add(parameters(options(f, "/etc/c.toml")))
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, err := answer(in, "id", "unix:///run/s", 3); err != nil {
			t.Errorf("%x: %v", in, err)
		}
		if _, err := configOf(in); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%x: %v", in, err)
		}
	})
}
