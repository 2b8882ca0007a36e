package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kata-cc/kata-cc/tardev"
	"github.com/kata-cc/kata-cc/verity"
)

// cacheOptions say whose layers are computed, and where the result goes.
type cacheOptions struct {
	Image      string // name in a registry or containerd, or directory in the OCI image layout
	Output     string
	Insecure   bool
	Platform   string
	Containerd string // socket, "" for none
	Namespace  string // of containerd
}

// cacheEntry is an element of the layer cache that genpolicy reads and writes.
type cacheEntry struct {
	DiffID     string `json:"diff_id"`
	VerityHash string `json:"verity_hash"`
}

// layerCache adds the layers of an image to the cache. The file changes whole or
// not at all.
func layerCache(ctx context.Context, o cacheOptions, stdout, stderr io.Writer) (err error) {
	entries, err := readCache(o.Output)
	if err != nil {
		return err
	}
	image, closer, err := openImage(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	layers, err := image.Layers()
	if err != nil {
		return fmt.Errorf("image %s: %w", o.Image, err)
	}
	for _, l := range layers {
		entry, err := cacheLayer(ctx, l, entries, stderr)
		if err != nil {
			return fmt.Errorf("image %s: %w", o.Image, err)
		}
		if !slices.Contains(entries, entry) {
			entries = append(entries, entry)
		}
		fmt.Fprintf(stdout, "%s  %s\n", entry.DiffID, entry.VerityHash)
	}
	return writeCache(o.Output, entries)
}

// cacheLayer finds a layer in the cache or computes it.
func cacheLayer(ctx context.Context, l v1.Layer, entries []cacheEntry, stderr io.Writer) (cacheEntry, error) {
	diffID, err := l.DiffID()
	if err != nil {
		return cacheEntry{}, err
	}
	if i := slices.IndexFunc(entries, func(e cacheEntry) bool { return e.DiffID == diffID.String() }); i >= 0 {
		return entries[i], nil
	}
	blob, err := l.Compressed()
	if err != nil {
		return cacheEntry{}, fmt.Errorf("layer %s: %w", diffID, err)
	}
	defer blob.Close()
	built, err := tardev.Build(ctx, io.Discard, blob, tardev.BuildOptions{Lost: func(path, what string) {
		fmt.Fprintf(stderr, "warning: %s: %q loses %s\n", diffID, path, what)
	}})
	if err != nil {
		return cacheEntry{}, fmt.Errorf("layer %s: %w", diffID, err)
	}
	if built.DiffID != diffID.String() {
		return cacheEntry{}, fmt.Errorf("layer %s: its content is %s", diffID, built.DiffID)
	}
	return cacheEntry{DiffID: built.DiffID, VerityHash: built.RootHash}, nil
}

// openImage finds the image. Whoever has read it closes what it came from.
func openImage(ctx context.Context, o cacheOptions) (v1.Image, io.Closer, error) {
	platform, err := v1.ParsePlatform(o.Platform)
	if err != nil {
		return nil, nil, fmt.Errorf("platform %q: %w", o.Platform, err)
	}
	if o.Containerd != "" {
		return containerdImage(ctx, o.Containerd, o.Namespace, o.Image, *platform)
	}
	nothing := io.NopCloser(nil)
	if info, statErr := os.Stat(o.Image); statErr == nil && info.IsDir() {
		image, layoutErr := layoutImage(o.Image, *platform)
		return image, nothing, layoutErr
	}
	var options []name.Option
	if o.Insecure {
		options = append(options, name.Insecure)
	}
	ref, err := name.ParseReference(o.Image, options...)
	if err != nil {
		return nil, nil, fmt.Errorf("image %q is neither a directory nor the name of an image: %w", o.Image, err)
	}
	image, err := remote.Image(ref, remote.WithContext(ctx), remote.WithPlatform(*platform), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return nil, nil, fmt.Errorf("fetch image %s: %w", ref, err)
	}
	return image, nothing, nil
}

// layoutImage finds the one image of a platform in an OCI image layout.
func layoutImage(dir string, platform v1.Platform) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("OCI image layout %s: %w", dir, err)
	}
	found, err := imagesIn(index, platform)
	if err != nil {
		return nil, fmt.Errorf("OCI image layout %s: %w", dir, err)
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("OCI image layout %s has %d images for %s, want one", dir, len(found), platform)
	}
	return found[0], nil
}

// imagesIn lists the images of an index, and of indexes in it, that are for a
// platform or do not say for which they are.
func imagesIn(index v1.ImageIndex, platform v1.Platform) ([]v1.Image, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var found []v1.Image
	for _, d := range manifest.Manifests {
		switch {
		case d.MediaType.IsIndex():
			inner, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			more, err := imagesIn(inner, platform)
			if err != nil {
				return nil, err
			}
			found = append(found, more...)
		case d.MediaType.IsImage() && (d.Platform == nil || d.Platform.Satisfies(platform)):
			image, err := index.Image(d.Digest)
			if err != nil {
				return nil, err
			}
			found = append(found, image)
		}
	}
	return found, nil
}

// readCache reads a layer cache; a file that does not exist is an empty one.
func readCache(path string) ([]cacheEntry, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseCache(path, text)
}

func parseCache(path string, text []byte) ([]cacheEntry, error) {
	var entries []cacheEntry
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("layer cache %s: %w", path, err)
	}
	for _, e := range entries {
		digest, ok := strings.CutPrefix(e.DiffID, "sha256:")
		if !ok || verity.CheckRootHash(digest) != nil || verity.CheckRootHash(e.VerityHash) != nil {
			return nil, fmt.Errorf("layer cache %s: entry %q, %q is no pair of a diff id and a root hash", path, e.DiffID, e.VerityHash)
		}
	}
	return entries, nil
}

func writeCache(path string, entries []cacheEntry) (err error) {
	text, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("write layer cache %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write layer cache %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
