// Package files is the file side of a build: which files a Dockerfile sees, and what COPY and ADD do with them.
//
// The idea: a build has two file systems, and neither is to be trusted. The context is a folder in which somebody may be
// working, with links to anywhere; the root of the stage holds whatever the base image put there. So both are held by
// descriptors, every name is looked up by the kernel below one of them (openat2(2), see rootfs.Tree), and no program,
// library or name service of the image has a part in it (CVE-2018-15664, CVE-2019-14271).
//
// The interface: [Open] reads a context: a folder, an archive, or a lone Dockerfile. [Context.Root] is what COPY's sources
// are looked up in, and [NewRoot] is the same for another stage (--from). [Instruction.Resolve] finds out which files an
// instruction means; the [Plan] that it returns knows their digest, which decides whether the build cache has the layer
// already, and copies them.
//
// The limits: a digest is of names, modes, owners, contents, link targets and extended attributes, and not of times, so
// that two checkouts of the same commit give the same. A context may change while it is read; then the copy is of what was
// found, and [Result.Changed] says that it is not what the digest was made of.
//
// See dockerfile(5), "Dockerfile reference: COPY, ADD, .dockerignore file", openat2(2), path_resolution(7).
package files
