package tardev

import "fmt"

// Bits of a tar header's mode that the index leaves out and a program needs.
const setIDBits = 0o6000

// SetID returns the set-user-id and set-group-id bits of a regular file that
// may be executed. The index has no room for them, but the header that stands
// before the file's content in the tar does, and the tree covers that as well.
// A file whose header is not found there (because only an extended header tells
// its size, say) has none.
func (f *FS) SetID(n Inode) (uint32, error) {
	if !n.IsRegular() || n.Mode&0o111 == 0 || n.Size == 0 || n.offset < tarBlock || n.offset > f.inodeTable {
		return 0, nil
	}
	var h header
	if _, err := f.r.ReadAt(h[:], int64(n.offset-tarBlock)); err != nil {
		return 0, fmt.Errorf("read header of inode %d: %w", n.Ino, err)
	}
	mode, modeErr := h.mode()
	size, sizeErr := h.size()
	regular := h.typeflag() == '0' || h.typeflag() == 0
	if h.checkSum() != nil || modeErr != nil || sizeErr != nil || !regular || size != n.Size || mode&0o777 != uint64(n.Mode&0o777) {
		return 0, nil
	}
	return uint32(mode & setIDBits), nil
}
