// libFuzzer target: a file of torch.save. The first byte chooses whether the rest is a whole archive or the pickle of
// one, because few mutations of an archive reach its pickle.

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
    guard size > 0 else { return 0 }
    let bytes = UnsafeRawBufferPointer(start: data + 1, count: size - 1)
    if data[0] & 1 == 0 {
        guard let entries = try? ZipDirectory.entries(bytes) else { return 0 }
        for entry in entries { precondition(entry.range.lowerBound >= 30 && entry.range.upperBound <= bytes.count) }
        guard let (content, storages) = try? TorchFile.read(bytes) else { return 0 }
        for tensor in content.tensors { check(tensor, storages[tensor.storage.key]?.range.count ?? 0) }
    } else if let content = try? PickleReader.read(bytes) {
        for tensor in content.tensors { check(tensor, tensor.storage.count * tensor.storage.type.size) }
    }
    return 0
}

/// The last element lies in the storage.
private func check(_ tensor: TorchTensor, _ bytes: Int) {
    guard tensor.count > 0 else { return }
    let last = zip(tensor.shape, tensor.strides).reduce(tensor.offset) { $0 + ($1.0 - 1) * $1.1 }
    precondition((last + 1) * tensor.type.size <= bytes)
}
