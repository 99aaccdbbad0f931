/// What a file that is no safetensors file is instead, by its first bytes, and what to do with it: one line. nil where
/// they say nothing.
func foreignFormat(at path: String) -> String? {
    guard let file = try? ReadableFile(path: path) else { return nil }
    var start = [UInt8](repeating: 0, count: min(file.size, 1 << 12))
    let isRead = start.withUnsafeMutableBytes { (try? file.read(into: $0, at: 0)) != nil }
    return isRead ? foreignFormat(start: start) : nil
}

func foreignFormat(start: [UInt8]) -> String? {
    func begins(_ text: String, at offset: Int = 0) -> Bool { start.dropFirst(offset).starts(with: text.utf8) }
    func holds(_ text: String) -> Bool {
        let text = Array(text.utf8)
        return start.indices.contains { start[$0...].starts(with: text) }
    }
    // A safetensors file that is damaged: the length of its header may begin with anything.
    let isHeader = start.count > 8 && start[8] == UInt8(ascii: "{")
    let convert = "save its tensors with safetensors.torch.save_file"
    if begins("PK\u{3}\u{4}") {
        if holds("/data.pkl") || holds("/.format_version") || holds("/.data/serialization_id") {
            return holds("/code/") || holds("/constants.pkl")
                ? "a TorchScript archive (zip): load it with torch.jit.load and \(convert)"
                : "a PyTorch checkpoint (zip): hssl import makes a model file of it, or load it with torch.load(…, "
                    + "weights_only=True) and \(convert)"
        }
        if holds(".npy") { return "a NumPy archive (.npz): save its arrays with safetensors.numpy.save_file" }
        return "a zip archive: unpack it first"
    }
    // A frame of protocol 2 … 5; PyTorch before 1.6 began its files with a pickled number of ten bytes.
    if start.count > 2, !isHeader, start[0] == 0x80, (2...5).contains(start[1]) {
        return start[2] == 0x8A && start.dropFirst(3).starts(with: [0x0A, 0x6C, 0xFC, 0x9C, 0x46, 0xF9])
            ? "a PyTorch checkpoint of before 1.6 (pickle): load it with torch.load(…, "
                + "weights_only=True) and \(convert)"
            : "a Python pickle, which runs code when it is loaded: load it only if you trust it, and \(convert)"
    }
    if begins("GGUF") {
        return "a GGUF file (llama.cpp): take the checkpoint it was made from, in safetensors"
    }
    if begins("HDF\r\n\u{1A}\n", at: 1), start[0] == 0x89 {
        return "an HDF5 file (Keras): save its arrays with safetensors.numpy.save_file"
    }
    if begins("TFL3", at: 4) { return "a TensorFlow Lite model: take the model it was made from" }
    if begins("NUMPY", at: 1), start[0] == 0x93 {
        return "a NumPy array (.npy): save it with safetensors.numpy.save_file"
    }
    // Protocol buffers: ir_version, then another field of ModelProto.
    if start.count > 8, !isHeader, start[0] == 0x08, (1...30).contains(start[1]),
       [0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42].contains(start[2]) {
        return "an ONNX model: take the checkpoint it was made from, or save its initializers with "
            + "safetensors.numpy.save_file"
    }
    return nil
}
