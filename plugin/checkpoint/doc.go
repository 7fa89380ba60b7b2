// Package checkpoint keeps versions of one task's saved state in a store that
// the task's next allocation can reach, on whatever node it lands.
//
// # Guarantees
//
//   - A version that [Session.Save] has acknowledged is found again, whole and
//     unchanged, until newer ones have taken its place or the chain has been
//     closed. One that was cut off half-way, by a crash or a full disk, does
//     not exist.
//   - Versions of two identities never mix, whatever their names are.
//   - Nobody overwrites anything: every object is created once, by a write that
//     fails if it is there already. A lost answer is cleared up by reading back.
//   - The newest whole version is never deleted, nor anything that belongs to an
//     owner newer than the one that deletes. What could not be listed is not
//     deleted.
//   - That there is nothing to restore is said only if the store has said so. An
//     answer that failed, or that was cut down by missing rights, is an error.
//   - What is read is bounded: no more is fetched than the version should have,
//     and no more is unpacked than Options.MaxSize.
//
// # Non-guarantees
//
//   - One owner at a time. In Nomad a replacement can start before the
//     allocation that it replaces has saved. [Chain.AwaitEnd] waits for that
//     one, but only the caller knows for how long. An owner that comes too late
//     is told so ([Saved.Superseded]); what it saves is kept, and counts less
//     than anything that a later owner has saved.
//   - A Save that returned an error may still have stored its version: the
//     answer can get lost when the time is up.
//   - The store must show a new object to every node at once. Consul and S3 do,
//     and so does a local directory. A directory on NFS does with the mount
//     option noac; without it a node may see an older version for a while. Even
//     then nothing is overwritten and nothing newer is deleted.
//   - Secrecy. State lies in the store as the task gave it, compressed.
//
// # What lies in the store
//
// Names begin with lifecycle/checkpoints/<namespace>/<job>/<group>/<index>/<task>/.
// A byte that is not safe everywhere is written as ~ and two hexadecimal digits;
// not as a percent sign, because Consul refuses keys that mean "..", or a
// space, if they are unescaped. Below that:
//
//	00000007/owner         who claimed epoch 7: each start of the task claims the next one
//	00000007/00000003.data the state, compressed with zstd
//	00000007/00000003.json the manifest, written last: the version exists from then on
//	00000007/end           that owner has finished
//	00000007/final         that owner has finished, and its state is not to be taken up again
//
// The latest version is the highest one, by epoch and then by number, that is
// not closed by a final of its own or a later epoch.
//
// # For the operator
//
// After a final stop the versions stay until newer ones take their place. To
// bring them back, delete every final whose epoch is not below that of the
// version before the task starts again. To go back to an older version, delete
// the manifests (.json) of those after it. To start cold, delete everything
// below the task's prefix while the task does not run. A version can be
// unpacked with zstd -d.
package checkpoint
