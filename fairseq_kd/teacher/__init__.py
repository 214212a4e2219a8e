"""The teacher: checkpoint -> frozen Teacher -> SignalSource -> TeacherSignal."""
