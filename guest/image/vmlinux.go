package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// maxKernel bounds what a compressed kernel may expand to.
const maxKernel = 512 << 20

// Offsets in the header of a bzImage (Documentation/arch/x86/boot.rst).
const (
	setupSectors  = 0x1f1 // u8: sectors of real-mode code after the first
	headerMagic   = 0x202 // "HdrS"
	protocol      = 0x206 // u16
	payloadOffset = 0x248 // u32, from the start of the protected-mode code
	payloadLength = 0x24c // u32
	headerEnd     = 0x250
	payloadSince  = 0x0208 // protocol that brought the two
)

// extract expands the kernel that a bzImage carries: an ELF file that a VMM can
// enter without the decompressor, through its PVH entry point.
func extract(ctx context.Context, bzImage []byte) ([]byte, error) {
	payload, err := payload(bzImage)
	if err != nil {
		return nil, err
	}
	vmlinux, err := expand(ctx, payload)
	if err != nil {
		return nil, fmt.Errorf("expand kernel: %w", err)
	}
	if err := checkPVH(vmlinux); err != nil {
		return nil, err
	}
	return vmlinux, nil
}

// payload finds the compressed kernel in a bzImage.
func payload(bzImage []byte) ([]byte, error) {
	if len(bzImage) < headerEnd || string(bzImage[headerMagic:headerMagic+4]) != "HdrS" {
		return nil, fmt.Errorf("kernel is no bzImage: %w", errdefs.ErrInvalidArgument)
	}
	if p := binary.LittleEndian.Uint16(bzImage[protocol:]); p < payloadSince {
		return nil, fmt.Errorf("kernel has boot protocol %#x, older than %#x: %w", p, payloadSince, errdefs.ErrInvalidArgument)
	}
	setup := int64(bzImage[setupSectors])
	if setup == 0 {
		setup = 4 // as the protocol says
	}
	start := (setup+1)*512 + int64(binary.LittleEndian.Uint32(bzImage[payloadOffset:]))
	end := start + int64(binary.LittleEndian.Uint32(bzImage[payloadLength:]))
	if end > int64(len(bzImage)) || end-start < 8 {
		return nil, fmt.Errorf("kernel payload [%d, %d) lies outside of the file's %d bytes: %w",
			start, end, len(bzImage), errdefs.ErrInvalidArgument)
	}
	return bzImage[start:end], nil
}

// expand decompresses a payload by its magic number. The kernel's build appends
// the expanded size to all formats but gzip, which ends with it anyway.
func expand(ctx context.Context, payload []byte) ([]byte, error) {
	body := payload[:len(payload)-4]
	size := int64(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	if size > maxKernel {
		return nil, fmt.Errorf("%d bytes are more than %d: %w", size, maxKernel, errdefs.ErrInvalidArgument)
	}
	var r io.Reader
	switch {
	case bytes.HasPrefix(body, []byte("\x02\x21\x4c\x18")):
		r = lz4.NewReader(bytes.NewReader(body))
	case bytes.HasPrefix(body, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	case bytes.HasPrefix(body, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(bytes.NewReader(payload))
		if err != nil {
			return nil, err
		}
		r = z
	case bytes.HasPrefix(body, []byte("\xfd7zXZ\x00")):
		data, err := unxz(ctx, body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	default:
		return nil, fmt.Errorf("compression with magic %x is unknown: %w", body[:4], errdefs.ErrInvalidArgument)
	}
	out, err := io.ReadAll(io.LimitReader(r, size+1))
	if err != nil {
		return nil, err
	}
	if int64(len(out)) != size {
		return nil, fmt.Errorf("expands to %d bytes or more, not %d: %w", len(out), size, errdefs.ErrInvalidArgument)
	}
	return out, nil
}

// entryNote is XEN_ELFNOTE_PHYS32_ENTRY, which names the PVH entry point.
const entryNote = 18

// checkPVH makes sure that a VMM can enter the kernel.
func checkPVH(vmlinux []byte) error {
	f, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil {
		return fmt.Errorf("expanded kernel: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes := make([]byte, min(p.Filesz, 1<<20))
		if _, err := p.ReadAt(notes, 0); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("notes of the expanded kernel: %w", err)
		}
		if slices.Contains(xenNotes(notes), entryNote) {
			return nil
		}
	}
	return fmt.Errorf("kernel has no PVH entry point (CONFIG_PVH): %w", errdefs.ErrInvalidArgument)
}

// xenNotes returns the types of the notes whose owner is Xen (elf(5), Nhdr:
// name size, description size, type; both padded to four bytes).
func xenNotes(notes []byte) []uint32 {
	var types []uint32
	for len(notes) >= 12 {
		name := int64(binary.LittleEndian.Uint32(notes))
		description := int64(binary.LittleEndian.Uint32(notes[4:]))
		kind := binary.LittleEndian.Uint32(notes[8:])
		notes = notes[12:]
		if name > int64(len(notes)) {
			break
		}
		if string(notes[:name]) == "Xen\x00" {
			types = append(types, kind)
		}
		skip := (name+3)&^3 + (description+3)&^3
		if skip > int64(len(notes)) {
			break
		}
		notes = notes[skip:]
	}
	return types
}
